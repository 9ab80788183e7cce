"""The local web page of `sfplus app`: computations, the server and its pages."""
