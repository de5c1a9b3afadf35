"""What every stage needs: files, folders, arrays, threads, text, metrics, statistics, and how Keras starts."""
