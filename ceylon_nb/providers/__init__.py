"""Wire formats, one a file, behind a Protocol of two methods (`base.Provider`)."""
