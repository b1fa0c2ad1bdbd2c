"""Planning: drivers that know the map, as references and as teachers."""
