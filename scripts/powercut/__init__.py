"""A server on a disk whose power is cut under load: what it promised, compared with what is left."""
