// Iterated merging: which pair of models to merge next, by score and kinship (arXiv:2410.12613).
