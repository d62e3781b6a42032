"""`edge-agent web`: the page of a site's boards, for people without a terminal."""
