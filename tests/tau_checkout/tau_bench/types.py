raise ImportError("the packages that a checkout needs beside eexp are not installed")
