from asm.testing import MaintenanceContract


class TestMaintenance(MaintenanceContract):
    """The suite, on every session store that lets itself be looked after."""
