"""No part of a conversion: `train` makes small models from labelled rows, and `extend` extends a copy of a bundle."""
