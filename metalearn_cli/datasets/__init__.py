"""Reading data: pictures, tables and archives; and packing image sets."""
