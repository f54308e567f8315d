"""Where training pictures come from: procedural sticker scenes, folders, streams."""
