"""A student over HTTP: ``lalia serve``. The extra ``[serve]``; everything else of the light half does without."""
