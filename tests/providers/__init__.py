"""Local servers that speak the providers' languages, and the tests of the adapters against them."""
