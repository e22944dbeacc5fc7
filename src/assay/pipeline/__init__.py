"""`assay run`: a pool through stage 1 and stage 2 to reward models, and what is made of a finished run (paper A)."""
