"""Published rows, trained again: `metalearn reproduce` and its verdict beside the paper's figure."""
