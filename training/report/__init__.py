"""Reports on run folders: one HTML file, and the folder of links that TensorBoard reads."""
