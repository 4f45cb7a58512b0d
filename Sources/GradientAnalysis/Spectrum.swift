// What training data does to each layer: spectra of the gradients of attention's projections (arXiv:2410.23743).
