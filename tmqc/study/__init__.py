"""Many runs with one question: how well is harmful data found, and what does that buy?"""
