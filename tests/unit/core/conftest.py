from hypothesis import settings

# No deadline: a test asserts no duration. No example database: nothing is written beside the code.
settings.register_profile("asm", deadline=None, database=None, derandomize=True)
settings.load_profile("asm")
