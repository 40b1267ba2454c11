"""How fast an outer step is, here and in other programs: `benchmarks/speed/run.sh`, see its README.md."""
