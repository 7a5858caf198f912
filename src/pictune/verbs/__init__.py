"""What a user can do: one public function a file, and the only place that joins the rooms."""
