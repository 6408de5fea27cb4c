"""What runs agents: mailboxes, hosts, the ways between them, supervision."""
