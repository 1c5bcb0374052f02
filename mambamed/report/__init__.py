"""Tables, pictures and the report page; nothing is measured here."""
