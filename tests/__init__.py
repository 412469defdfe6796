"""Makes `tests` a package, so that `import tests` never finds the tests of another distribution."""
