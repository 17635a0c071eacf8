"""Every file that Folio keeps or exchanges; each module documents its fields at the top."""
