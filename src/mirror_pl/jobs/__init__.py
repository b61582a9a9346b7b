"""What each command does once its config is composed. Knows all rooms; the commands themselves stay quick to start."""
