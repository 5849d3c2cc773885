"""Reading a network: its graph, the names of its tensors, what each operation is, where blocks
stand.
"""
