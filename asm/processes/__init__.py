"""What runs inside the processes of a tree: the worker of a backend, the composite, and what both are made of."""
