"""Speech over HTTP and Wyoming."""
