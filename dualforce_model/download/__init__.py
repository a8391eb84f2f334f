"""From a dataset's list to the videos it names, politely: parsing, fetching, failing, forgetting. It knows nothing of faces."""
