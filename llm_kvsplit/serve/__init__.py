"""llama.cpp's own server for registered models: what each is served with, and how the server is started and watched."""
