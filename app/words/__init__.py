"""The studio's words, two files a language: `*_page` for what stands on the page, `*_work` for what is said of work."""
