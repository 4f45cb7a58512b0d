// Tests of Evolution.
