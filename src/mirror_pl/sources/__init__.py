"""Where pictures are: folders, globs and shards, listed without opening a picture, and read in place."""
