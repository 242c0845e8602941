"""`lance store`: the completion store's size and use, and a team's store on a DVC remote."""
