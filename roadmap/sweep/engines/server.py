"""What the server that local runs are forked from imports first: it starts as a command does, looking for garbage seldom."""

from roadmap.base.processes import collect_seldom

collect_seldom()
