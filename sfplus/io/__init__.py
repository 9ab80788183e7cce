"""Files, downloads, tables, resources, prefetching, threads and the terminal."""
