"""TravelPlanner: what the texts of a plan name, the database, and the rules for a plan."""
