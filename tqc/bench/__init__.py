"""Speed: decode attention of one layer, and whole models, beside full-precision peers timed in the same run."""
