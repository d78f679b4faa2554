"""What is watched and saved during training. Callbacks know the base classes in
`lightning_modules/core/`, and no system.
"""
