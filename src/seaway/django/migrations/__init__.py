"""One for each of Seaway's numbered migrations, of the same number and name."""
