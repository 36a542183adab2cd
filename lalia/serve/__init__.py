"""HTTP and WebSocket server for a student (``lalia serve``), from the extra ``[serve]``."""
