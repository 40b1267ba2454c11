"""One image set a file: where its data come from, its classes and splits; and packing and reading them."""
