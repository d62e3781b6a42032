"""What a model's or adapter's file holds, checked before native code reads it."""
