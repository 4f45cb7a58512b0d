// Tests of GradientAnalysis.
