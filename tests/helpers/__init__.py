"""What tests of several folders share: golden data, processes, servers, a browser. No tests."""
