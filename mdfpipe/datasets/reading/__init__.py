"""What the readers of data sets share: tables, paths, rules, faces, images."""
