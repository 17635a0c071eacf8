"""The HTTP server of python -m folio.serve: an API in OpenAI's form, and the page to write with."""
