"""The comparison with other libraries: questions, put to each of them, and the table that the README shows."""
