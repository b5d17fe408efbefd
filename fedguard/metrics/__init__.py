"""What a run is judged by. Only this room and the attacks know who is malicious."""
