"""Every document that crosses a border: one strict model per JSON file that mambamed writes or reads back."""
