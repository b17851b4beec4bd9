class Growth:
    def __init__(self,*a): pass
