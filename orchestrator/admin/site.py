from unfold.sites import UnfoldAdminSite


class UpbeatAdminSite(UnfoldAdminSite):
    """The one admin site: theme, login, menu."""
