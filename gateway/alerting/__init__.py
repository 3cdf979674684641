"""Reading alerts as their issuers publish them: CAP documents, NWS features, their areas and event codes."""
