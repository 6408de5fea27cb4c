"""What the policies came to on many days: tables, intervals, goals and plots, from one command."""
